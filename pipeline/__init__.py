"""What parmflow is: the values, the steps and the doors to the outside. No network, no scheduler."""
