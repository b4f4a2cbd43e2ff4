"""How `kpzoo.scenes.drawn` draws: bodies in space, their clothes and faces, and what stands around them."""
