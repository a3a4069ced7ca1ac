// Command sample is the loop that go-tflite's own example shows
// (_example/label_image of v1.0.1, MIT licence), on the file of a JPEG, frame after
// frame: default options, four threads, image/jpeg, nfnt/resize and At(). It is what
// people start from.
//
//	sample MODEL FRAMES PICTURE.jpg
//
// It prints what the bare C loop prints. A module of its own, so that Covey's go.mod
// does not name what it scales with.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	_ "image/jpeg"
	"os"
	"sort"
	"strconv"
	"time"

	"github.com/mattn/go-tflite"
	"github.com/nfnt/resize"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "sample:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 4 {
		return errors.New("usage: sample MODEL FRAMES PICTURE.jpg")
	}
	frames, err := strconv.Atoi(os.Args[2])
	if err != nil || frames < 1 {
		return errors.New("FRAMES must be at least 1")
	}
	file, err := os.ReadFile(os.Args[3])
	if err != nil {
		return err
	}
	model := tflite.NewModelFromFile(os.Args[1])
	if model == nil {
		return errors.New("cannot load model")
	}
	defer model.Delete()
	options := tflite.NewInterpreterOptions()
	options.SetNumThread(4)
	defer options.Delete()
	interpreter := tflite.NewInterpreter(model, options)
	if interpreter == nil {
		return errors.New("cannot create interpreter")
	}
	defer interpreter.Delete()
	if interpreter.AllocateTensors() != tflite.OK {
		return errors.New("allocate failed")
	}
	var began time.Time
	best := -1
	for i := -1; i < frames; i++ { // the first one pays for what is made once
		if i == 0 {
			began = time.Now()
		}
		if best, err = label(interpreter, file); err != nil {
			return err
		}
		if i < 0 {
			fmt.Println("first", best)
		}
	}
	fmt.Printf("{\"fps\":%.2f,\"best\":%d}\n", float64(frames)/time.Since(began).Seconds(), best)
	return nil
}

// label is the example's frame.
func label(interpreter *tflite.Interpreter, file []byte) (int, error) {
	img, _, err := image.Decode(bytes.NewReader(file))
	if err != nil {
		return 0, err
	}
	input := interpreter.GetInputTensor(0)
	channels := input.Dim(3)
	resized := resize.Resize(uint(input.Dim(2)), uint(input.Dim(1)), img, resize.NearestNeighbor)
	dx, dy := resized.Bounds().Dx(), resized.Bounds().Dy()
	bb := make([]byte, dx*dy*channels)
	for y := range dy {
		for x := range dx {
			r, g, b, _ := resized.At(x, y).RGBA()
			bb[(y*dx+x)*3+0] = byte(float64(r) / 255.0)
			bb[(y*dx+x)*3+1] = byte(float64(g) / 255.0)
			bb[(y*dx+x)*3+2] = byte(float64(b) / 255.0)
		}
	}
	input.CopyFromBuffer(bb)
	if interpreter.Invoke() != tflite.OK {
		return 0, errors.New("invoke failed")
	}
	output := interpreter.GetOutputTensor(0)
	b := make([]byte, output.Dim(output.NumDims()-1))
	if output.CopyToBuffer(&b[0]) != tflite.OK {
		return 0, errors.New("output failed")
	}
	type result struct {
		score float64
		index int
	}
	results := []result{}
	for i := range b {
		results = append(results, result{float64(b[i]) / 255.0, i})
	}
	sort.Slice(results, func(i, j int) bool { return results[i].score > results[j].score })
	return results[0].index, nil
}
