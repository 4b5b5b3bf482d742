"""δ chosen on training images without a mask: what each δ's maps say of themselves.

Of each defective training image and δ a mask is drawn as ever, and its pixels are blurred away. A
good mask holds much of what the classifier saw in little of the image.
"""

from __future__ import annotations
