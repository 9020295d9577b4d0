"""Floor 5: trained models taken elsewhere, and models of others brought in."""
