"""Image formats: headers and pixels, each format in a module or folder of its own."""
