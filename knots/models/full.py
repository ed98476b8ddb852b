def load_finetuned(source, clip, *, name, revision=None):
    raise NotImplementedError
