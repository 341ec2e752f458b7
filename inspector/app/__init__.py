"""`inspect app`: the report and the plan as a page that many people use at once.

What a visitor sets becomes the words of a command line (`form`), which a worker process reads as the command would
(`work`), so that the command line that the page shows gives what the page shows. The page itself is Gradio's
(`blocks`), and what it shows of an answer is the page of `--format html` in a frame.

The server (`server`) works on nothing and asks no host. Workers (`pool`) are few, live long, and are ended where a
question takes more memory or time than it may; questions wait in a queue, and answers are kept (`answers`).
"""
