"""Shadow storage: old data of a volume's chunks, so that the volume can still be read as it was.

One process writes (``writer.ShadowStore``), any number read (``reader.CopyReader``), with no lock between them.

The idea in a page. Time is counted in *generations*: each cut adds one, and a shadow copy is named by the generation
that its cut began. Before a chunk is overwritten, its content is copied out into a *slot*, once for the newest living
copy, and the slot is labelled with that copy's generation. For each chunk ``head`` holds the newest slot's label and
number, and each slot holds the head that it replaced. So the content that copy *j* saw is in the oldest slot whose
label is at least *j*, and if there is none, in the origin. That walk is as long as the chunk has versions newer than
*j*, whatever the number of copies, and the write path looks at one word of ``head`` per chunk, whatever their number.

Deleting a copy strikes it from the table. A slot is garbage when no living copy's number lies in (label of the slot
before it, its own label]; ``reclaim`` finds those at leisure. No slot is used twice while a copy lives, so a reader
that is under way never finds another chunk's data where it looks.

The order that everything rests on: data into the slot, then (for persistent copies) fdatasync, then the head, then the
origin. A reader that found nothing in ``head`` and read the origin looks at ``head`` again afterwards.
"""
