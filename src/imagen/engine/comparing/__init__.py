"""One prompt over many models: planned, drawn, told in compare.json, laid out as a sheet and a page."""
