"""δ chosen on the training part: by its masks, or by what the maps say of themselves."""
