"""The families of networks, a file each, and what several of them share."""
