"""A variational autoencoder, a recurrent mixture density network, a controller evolved in their dreams."""

from wm_pipelines.families.vae_rnn.family import VAERNN, VAERNNConfig

__all__ = ["VAERNN", "VAERNNConfig"]
