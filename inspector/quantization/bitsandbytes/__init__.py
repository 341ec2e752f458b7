"""bitsandbytes without the library: modules, products, and the package that stands in."""
