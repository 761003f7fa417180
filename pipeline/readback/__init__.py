"""Read each delivered file with a program that did not write it, and weigh what it read."""
