"""Does reasoning widen what a model can recall, and is it the computation or the facts it writes down?"""
