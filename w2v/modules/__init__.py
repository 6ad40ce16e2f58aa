"""nn.Modules that hold parameters; the maths is in `w2v.functional`."""
