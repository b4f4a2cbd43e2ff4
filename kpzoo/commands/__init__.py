"""The commands of `kpzoo`: a module each, with what it takes beside what it does. None imports TensorFlow to say so."""
