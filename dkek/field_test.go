package dkek

import "testing"

// reference multiplies polynomials over GF(2) the long way: 15 bits of product,
// then division by x^8+x^4+x^3+x+1.
func reference(a, b byte) byte {
	product := 0
	for i := range 8 {
		if b>>i&1 == 1 {
			product ^= int(a) << i
		}
	}
	for bit := 14; bit >= 8; bit-- {
		if product>>bit&1 == 1 {
			product ^= 0x11b << (bit - 8)
		}
	}
	return byte(product)
}

func TestMultiplyAllPairs(t *testing.T) {
	for a := range 256 {
		for b := range 256 {
			if got, want := multiply(byte(a), byte(b)), reference(byte(a), byte(b)); got != want {
				t.Fatalf("%#x * %#x = %#x, want %#x", a, b, got, want)
			}
		}
	}
}

func TestInvertAll(t *testing.T) {
	for a := 1; a < 256; a++ {
		if got := reference(byte(a), invert(byte(a))); got != 1 {
			t.Fatalf("%#x * 1/%#x = %#x", a, a, got)
		}
	}
	if invert(0) != 0 {
		t.Fatal("1/0 must be 0, whatever it means")
	}
}

// One point of a constant polynomial needs no scaling: threshold 1 is no
// special case when shares are put together.
func TestCoefficientOfOnePoint(t *testing.T) {
	for x := 1; x < 256; x++ {
		if c := coefficient([]byte{byte(x)}, 0); c != 1 {
			t.Fatalf("x=%d: %d", x, c)
		}
	}
}

// The coefficients of any points add up to 1: a constant polynomial has the
// same value at 0.
func TestCoefficientsAddUpToOne(t *testing.T) {
	x := []byte{7, 1, 255, 90, 33, 18}
	for n := 1; n <= len(x); n++ {
		var sum byte
		for i := range n {
			sum ^= coefficient(x[:n], i)
		}
		if sum != 1 {
			t.Fatalf("%d points: %d", n, sum)
		}
	}
}
