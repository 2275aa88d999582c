"""The trust card of a model: what it keeps, what it invents, when not to use it, in sentences made from the long table alone."""
