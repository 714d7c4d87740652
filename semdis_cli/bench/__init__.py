"""`semdis bench`: what the machine can do, what the model and each stage of a run take of it, and what holds a run up.

Every measurement is a function that gives a frozen record; the names of its fields carry their units, and are the names
in the JSON.
"""
