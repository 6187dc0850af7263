"""The driver's connection to Ray, and a local cluster that is kept between runs."""
