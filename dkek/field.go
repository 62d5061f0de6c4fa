package dkek

// GF(2^8) with the AES polynomial x^8+x^4+x^3+x+1, the field of
// hashicorp/vault/shamir. No tables and no branches on data, so that neither
// time nor cache lines tell a share.

// multiply returns the product of a and b.
func multiply(a, b byte) byte {
	var product byte
	for range 8 {
		product ^= a & -(b & 1)
		a = a<<1 ^ 0x1b&-(a>>7)
		b >>= 1
	}
	return product
}

// invert returns a^254, which is 1/a, and 0 for 0.
func invert(a byte) byte {
	result := byte(1)
	square := a
	for range 7 { // 254 = 2+4+8+16+32+64+128
		square = multiply(square, square)
		result = multiply(result, square)
	}
	return result
}

// coefficient returns the Lagrange coefficient at 0 of the i-th of distinct,
// nonzero points: the product over j != i of x[j] / (x[j] - x[i]). It is public.
func coefficient(x []byte, i int) byte {
	result := byte(1)
	for j := range x {
		if j != i {
			result = multiply(result, multiply(x[j], invert(x[j]^x[i])))
		}
	}
	return result
}

// addScaled adds c*y to sum, byte by byte; both have the same length.
func addScaled(sum, y []byte, c byte) {
	for i := range sum {
		sum[i] ^= multiply(y[i], c)
	}
}
