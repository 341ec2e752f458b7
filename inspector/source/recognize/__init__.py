"""What people name beside ids and folders of models: addresses of the Hub, near misses, files of other libraries."""
