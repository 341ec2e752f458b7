"""Files that trainers read -> a Request: recognised by their keys, read with the framework's own defaults, never run.

`reading` turns bytes into a document, `recognise` says whose it is, `frameworks/` has a table of fields a framework,
`read` makes the settings of a document and says where each is from, `changes` spells a change in the file's own keys.
"""
