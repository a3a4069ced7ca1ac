module github.com/covey-edge/covey/scripts/benchmark/bare/sample

go 1.26

require (
	github.com/mattn/go-tflite v1.0.10
	github.com/nfnt/resize v0.0.0-20180221191011-83c6a9932646
)

require github.com/mattn/go-pointer v0.0.1 // indirect
