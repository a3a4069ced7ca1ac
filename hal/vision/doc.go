// Package vision turns pictures into what models take. A Filler resizes, converts
// colours, normalises and quantises a frame in one pass, straight from the
// frame's planes into the tensor; DecodePicture makes a frame of a picture file.
// Pure: no files, no clocks, no goroutines.
package vision
