"""Plans: which pairs, which tiles, how much memory, how many bytes. Pure, printable, tested without any cluster."""
