"""What is said: plain frozen values, standard library only."""
