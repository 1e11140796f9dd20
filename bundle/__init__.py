"""The ground floor: what a bundle is on disk, and the plain object one gets by opening it."""
