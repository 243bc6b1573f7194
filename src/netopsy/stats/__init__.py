"""Mathematics that knows no network and no samples."""
