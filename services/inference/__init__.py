"""The inference service: answers, takes feedback, and swaps in new weights while it does so.

tokens.py    Tokens: the authority to judge one answer, and the hashes of askers
batcher.py   Batcher: what queued while the model was busy becomes the next batches
replica.py   Replica: a served set of fp32 weights for each channel, and one that is written
tally.py     Tally: what each channel answered, and how long it took
requests.py  what a caller may send
intake.py    where events go, and what is told to those who handed them in
predictions.py  PredictionDesk: from a computed answer to what is shown and logged; asking.py: Asking, what is worth a judgement
feedback.py  FeedbackDesk: one judgement, from who may judge to its ack; examples.py: ExampleDesk, one labelled row
pod.py       Pod: a verified version, loaded and ready to be served
server.py    InferenceServicer: the contract's methods, and the one place where an error becomes a gRPC status
scrub.py     Scrub: memory that was damaged is found, and fetched again
updater.py   Updater: new weights in, reports on them out
__main__.py  builds and wires
"""
