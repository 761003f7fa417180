"""Torsions that are driven on fragments: which bonds turn, what to cut around them, each drive once."""
