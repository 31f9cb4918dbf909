"""Cases that do not come out as wanted yet, by what happens instead.

The test leaves them out; `python tests/case_lists.py` prints them.
"""

_GAPS = {
    "near copies are looked for only with --pixels": [
        "O_gradual_duplicates_told",
        "told coco saved again in val",
        "told voc saved again in val",
        "told yolo saved again in val",
        "told saved again in val",
    ],
    "trainset is not taken for train": [
        "coco splits ('trainset', 'valset', 'testset')",
        "coco folders ('trainset', 'valset', 'testset')",
        "voc lists ('trainset', 'valset', 'testset')",
        "yolo splits ('trainset', 'valset', 'testset') in images/{split}/{name}",
        "yolo splits ('trainset', 'valset', 'testset') in {split}/images/{name}",
    ],
    "the end of a listed name is taken for an extension": [
        "voc names '{stem}.jpg'",
    ],
    "blanks around a name become part of the class": [
        "voc names in lines of their own",
        "voc names with spaces at the ends",
    ],
    "labels in one folder are not found for images in several": [
        "yolo images/{split}/{name} labels/{stem}.txt 'names: [cat, dog]\\n'",
    ],
    "numbers as text are refused": [
        "yolo settings \"names:\\n  '0': cat\\n  '1': dog\\n\"",
        "yolo settings \"names: {0: cat, 1: dog}\\nnc: '2'\\n\"",
    ],
    "the line and the list are not named": [
        "yolo list line '# comment\\nimages/{split}/{name}'",
    ],
    "the names of data.yaml are taken without a word": [
        "a classes.txt that differs",
    ],
    "val is cut from train without a word": [
        "an empty val folder",
        "coco val lists nothing",
    ],
    "FileNotFoundError, exit code 70": [
        "coco with a broken link as annotations/instances_train.json",
        "voc with a broken link as Annotations/p0.xml",
        "voc with a broken link as ImageSets/Main/train.txt",
        "yolo with a broken link as data.yaml",
        "yolo with a broken link as labels/train/p0.txt",
        "yolo of Roboflow with a broken link as train/labels/p0.txt",
    ],
    "refused without naming the tool, or without saying to export": [
        "foreign Label Studio's JSON",
        "foreign Datumaro",
        "foreign Datumaro in splits",
        "foreign Open Images",
        "foreign RetinaNet's table",
        "foreign TFRecord",
    ],
}

GAPS = frozenset(name for names in _GAPS.values() for name in names)
