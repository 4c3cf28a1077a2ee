"""What a recipe is: YAML with places, typed parameters, the keys of TrainingArguments, and who may run code.

Needs no torch: a mistake is answered in half a second. Classes of other rooms are named here, and imported when used.
"""
