"""What others rely on: public names, options, JSON keys, start-up cost, import borders."""
