"""Ways to compute a projection: sparse matrix, ASTRA's projectors, rays in torch."""
