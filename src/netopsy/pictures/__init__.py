"""Pictures of filters, maps, patches and reconstructions, and their captions."""
