"""How weights become codes: round to nearest, GPTQ, AWQ and TEQ, by Intel Neural Compressor.

Its algorithms are called below its `prepare` and `convert`, which need the whole model in fp32 and hand out
fp16 scales. What an algorithm leaves undone is rounded to nearest, so that RTN is the one that does nothing.
"""
