"""Networks that denoise: their sizes, their layers, and the file that holds a trained one."""
