"""Networks fitted to data by gradient descent."""
