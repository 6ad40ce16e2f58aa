"""The parts of `w2v-visualize`: from numbers of a model or a run to sections of its report."""
