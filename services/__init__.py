"""The processes that run liveloop: they start from a clone or an image and are not part of the wheel."""
