"""The budget in nats: where the divergence between data and samples comes from."""
