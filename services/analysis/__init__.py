"""The analysis service: finds what is wrong in all data products, and publishes it as a product itself."""
