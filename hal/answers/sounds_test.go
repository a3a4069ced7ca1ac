package answers

import (
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"testing"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/signal"
	"github.com/covey-edge/covey/hal/source/wav"
)

// Of the chain of three models that hears "alexa".
const (
	window, hop = 1760, 1280 // samples of 16 kHz
	bands       = 32         // of a row, each 10 ms
	rows, step  = 76, 8      // of an embedding, and from one to the next
	steps       = 16         // embeddings that the word is heard in
)

// TestWord goes the whole way from a WAV file through three models on each other:
// sound, bands of frequency, embeddings, the word.
func TestWord(t *testing.T) {
	want := expected[struct {
		Mel20      []float32
		Embeddings [][]float32
		Scores     []float32
	}](t, "alexa.json")
	for _, a := range accelerators {
		mel := open(t, "audio/melspectrogram.tflite", hal.Options{Accelerator: a, Settings: map[string]string{"shape.serving_default_input:0": "1x1760"}})
		embed := open(t, "audio/embedding_model.tflite", hal.Options{Accelerator: a})
		word := open(t, "audio/alexa.tflite", hal.Options{Accelerator: a})

		filler, err := signal.NewFiller(mel.Info().Inputs[0], signal.Options{Scale: 32768})
		if err != nil {
			t.Fatal(err)
		}
		sound, err := wav.Open(wav.Config{Path: "testdata/alexa.wav", Window: window, Hop: hop})
		if err != nil {
			t.Fatal(err)
		}
		defer sound.Close()
		var spectrum, features, scores []float32
		var f hal.Frame
		for n := 0; ; n++ {
			err := sound.Next(t.Context(), &f)
			if errors.Is(err, io.EOF) || n == (3*16000-window)/hop+1 { // the last one is filled up with silence
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := filler.Fill(mel.Input(0, 0), &f); err != nil {
				t.Fatal(err)
			}
			run(t, mel)
			got := floats(mel.Output(0, 0).Data)
			if n == 20 {
				if far := farthest(got, want.Mel20); far > 0.01 {
					t.Errorf("%s: bands of window %d are %.3g off", a, n, far)
				}
			}
			for _, v := range got {
				spectrum = append(spectrum, v/10+2)
			}
		}
		for n := 0; bands*(step*n+rows) <= len(spectrum); n++ {
			putFloats(embed.Input(0, 0), spectrum[bands*step*n:][:bands*rows])
			run(t, embed)
			got := floats(embed.Output(0, 0).Data)
			if n >= len(want.Embeddings) {
				t.Fatalf("%s: more than %d embeddings", a, n)
			}
			if far := farthest(got, want.Embeddings[n]); far > 0.05 {
				t.Errorf("%s: embedding %d is %.3g off", a, n, far)
			}
			features = append(features, got...)
		}
		size := len(want.Embeddings[0])
		for n := 0; size*(n+steps) <= len(features); n++ {
			putFloats(word.Input(0, 0), features[size*n:][:size*steps])
			run(t, word)
			scores = append(scores, floats(word.Output(0, 0).Data)...)
		}
		far := farthest(scores, want.Scores)
		t.Logf("%s: %.3f at most, %.2g off", a, slices.Max(scores), far)
		if far > 0.01 || slices.Max(scores) < 0.95 {
			t.Errorf("%s: %v, want %v", a, scores, want.Scores)
		}
	}
}

// TestStream: a model that hears "okay nabu" in features that come three rows at a
// time, and keeps what it heard in itself. After Reset it begins anew.
func TestStream(t *testing.T) {
	features, want := read(t, filepath.Join("testdata", "nabu.features")), read(t, filepath.Join("testdata", "nabu.answers"))
	for _, a := range accelerators {
		s := open(t, "audio/okay_nabu.tflite", hal.Options{Accelerator: a})
		hear := func(from int) (got []byte) {
			for n := from; n < len(want); n++ {
				copy(s.Input(n%2, 0), features[120*n:][:120])
				if _, err := s.Run(n % 2); err != nil {
					t.Fatal(err)
				}
				got = append(got, s.Output(n%2, 0).Data...)
			}
			return got
		}
		first := hear(0)
		t.Logf("%s: %d of 255 at most, %d off", a, slices.Max(first), off(first, want))
		if off(first, want) > map[hal.Accelerator]int{hal.CPU: 1, hal.XNNPACK: 12}[a] || slices.Max(first) < 250 {
			t.Errorf("%s: %v, want %v", a, first, want)
		}
		const middle = 50 // in the word
		if err := s.Reset(); err != nil {
			t.Fatal(err)
		}
		if cut := hear(middle); off(cut, want[middle:]) < 100 {
			t.Errorf("%s: half a word is heard as the whole: the state was not forgotten", a)
		}
		if err := s.Reset(); err != nil {
			t.Fatal(err)
		}
		if again := hear(0); !bytes.Equal(again, first) {
			t.Errorf("%s: after Reset %v, at first %v", a, again, first)
		}
	}
}

// off is the largest difference of two lists of bytes.
func off(got, want []byte) int {
	far := 0
	for i := range min(len(got), len(want)) {
		far = max(far, int(got[i])-int(want[i]), int(want[i])-int(got[i]))
	}
	return far
}
