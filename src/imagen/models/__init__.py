"""What can be asked for: one folder per model, all data, and the catalog that reads them."""
