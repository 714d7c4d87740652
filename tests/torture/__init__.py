"""The promises of the store under torture: kills, power cuts, full disks, rivals, odd clocks, names and links."""
