"""How the model in the box is made: data, network, training, export. Not installed with the package."""
