"""Our own inference worker: one model, one process, one HTTP server that speaks the OpenAI API.

`engine/` decides what runs next and does no I/O; `model/` is the only tensor code; `driver.py` joins the two in one
thread; `server.py` and its neighbours are HTTP. What differs on AWS Neuron devices is in `neuron.py` alone.
"""
