"""Pictures for people: diagrams of a model, files of images, the report of a sweep.

No diagram is drawn from a formula. A receptive field is where a gradient in float64 is not exactly zero, a mask is
the buffer of a layer, a distribution is what the likelihood gives for every level. So a diagram also shows a mistake: a
later pixel with a gradient is marked as a leak. Each kind of diagram has a file that computes it and draws it.

Reference: van den Oord et al. 2016a, fig. 1, 2 and 4; 2016b, fig. 1 (blind spot).
"""
