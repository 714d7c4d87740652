MIN_IMAGES = 2049


class FeatureSums:
    pass


def frechet_distance(a, b):
    pass
