"""Pages about runs: of one, of several on one axis, and the end of the main job that draws them."""
