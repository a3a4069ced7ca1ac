package vision

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
)

// TestPillow compares with what Pillow made of the same pictures (testdata/pillow.py).
// Pillow adds up every pixel under a triangle, Fill up to 64 of them; Pillow also turns
// a JPEG into RGB before it shrinks it, Fill afterwards. The tolerance is 3.5 of 255 on
// average (in the fur of the dog; 2 elsewhere), and 98 of 100 values within 16.
func TestPillow(t *testing.T) {
	for _, name := range []string{"label_image/peacock.png", "ssd/example.jpg"} {
		file, err := os.ReadFile(filepath.Join(haltest.Models(t), name))
		if err != nil {
			t.Fatal(err)
		}
		var frame hal.Frame
		if err := DecodePicture(file, &frame); err != nil {
			t.Fatal(err)
		}
		base := filepath.Base(name[:len(name)-4])
		for _, tt := range []struct {
			w, h int
			o    Options
			part [4]int // that was kept
		}{
			{64, 64, Options{}, [4]int{0, 0, 64, 64}},
			{96, 54, Options{}, [4]int{0, 0, 96, 54}},
			{224, 224, Options{Crop: [4]float32{.25, .25, .75, .75}}, [4]int{80, 80, 144, 144}},
		} {
			want, err := os.ReadFile(fmt.Sprintf("testdata/%s-%dx%d.rgb", base, tt.w, tt.h))
			if err != nil {
				t.Fatal(err)
			}
			f, err := NewFiller(input(hal.Uint8, 1, tt.h, tt.w, 3), tt.o)
			if err != nil {
				t.Fatal(err)
			}
			dst := make([]byte, f.size())
			if _, err := f.Fill(dst, &frame); err != nil {
				t.Fatal(err)
			}
			sum, far, most := 0, 0, 0
			for y := tt.part[1]; y < tt.part[3]; y++ {
				got := dst[3*(y*tt.w+tt.part[0]) : 3*(y*tt.w+tt.part[2])]
				for i, v := range got {
					d := int(v) - int(want[i])
					d = max(d, -d)
					if sum, most = sum+d, max(most, d); d > 16 {
						far++
					}
				}
				want = want[len(got):]
			}
			n := 3 * (tt.part[2] - tt.part[0]) * (tt.part[3] - tt.part[1])
			mean := float64(sum) / float64(n)
			t.Logf("%s %d×%d of %d×%d: %.2f on average, %.2f %% above 16, %d at most", base, tt.w, tt.h, frame.Width, frame.Height, mean, 100*float64(far)/float64(n), most)
			if mean > 3.5 || far*50 > n {
				t.Errorf("%s %d×%d: off by %.2f on average, %d of %d above 16", base, tt.w, tt.h, mean, far, n)
			}
		}
	}
}
