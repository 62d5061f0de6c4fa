// Package hsmtest is what every driver must pass, and a device that fails on
// purpose.
//
// A driver's test calls [Run] with a function that opens a device. Code that
// uses devices is tested with [Fault], which makes chosen calls fail: not done,
// done but reported failed, hanging, or slow.
//
// Guaranteed: a device that passes answers as the comments of hsm.Device say,
// its signatures, decryptions and agreements fit Go's standard library, and its
// blobs open under the DKEK as package keyblob reads them. Not guaranteed:
// durability under a power cut, which a driver tests itself.
//
//	func TestConformance(t *testing.T) {
//		hsmtest.Run(t, hsmtest.Suite{Open: func(t *testing.T) hsmtest.Fixture {
//			return hsmtest.Fixture{Device: soft.NewMemory(soft.Options{})}
//		}})
//	}
package hsmtest
