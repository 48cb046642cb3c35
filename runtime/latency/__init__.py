"""How fast a network is: alone, against another, under load."""
