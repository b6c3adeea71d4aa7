"""The same four things said in languages that are written in different ways."""

from typing import NamedTuple


class Language(NamedTuple):
    """What is said while the picture is red, green, blue or white."""

    red: str
    green: str
    blue: str
    white: str


LANGUAGES = {
    "English": Language(
        "first we cut the red tomato",
        "now we wash the green lettuce",
        "pour it into the blue bowl",
        "at the end we add white salt",
    ),
    "Korean": Language(
        "먼저 빨간 토마토를 썰어요",
        "이제 초록색 상추를 씻어요",
        "파란 그릇에 부어 주세요",
        "마지막으로 하얀 소금을 넣어요",
    ),
    "Chinese": Language(
        "首先切红色的番茄。", "现在洗绿色的生菜。", "倒进蓝色的碗里。", "最后加一点白色的盐。"
    ),
    "Japanese": Language(
        "まず赤いトマトを切ります。",
        "次に緑のレタスを洗います。",
        "青いボウルに注ぎます。",
        "最後に白い塩を入れます。",
    ),
    "Thai": Language(
        "ขั้นแรกหั่นมะเขือเทศสีแดง",
        "ตอนนี้ล้างผักกาดสีเขียว",
        "เทลงในชามสีน้ำเงิน",
        "สุดท้ายใส่เกลือสีขาว",
    ),
    "Arabic": Language(
        "أولاً نقطع الطماطم الحمراء",
        "الآن نغسل الخس الأخضر",
        "نسكبه في الوعاء الأزرق",
        "في النهاية نضيف الملح الأبيض",
    ),
    "Hebrew": Language(
        "קודם חותכים את העגבנייה האדומה",
        "עכשיו שוטפים את החסה הירוקה",
        "שופכים לתוך הקערה הכחולה",
        "בסוף מוסיפים מלח לבן",
    ),
    "Vietnamese": Language(
        "đầu tiên chúng ta cắt cà chua đỏ",
        "bây giờ rửa rau xà lách xanh lá",
        "đổ vào bát màu xanh dương",
        "cuối cùng thêm muối trắng",
    ),
    "French": Language(
        "d'abord on émince la tomate rouge",
        "on lave après la laitue très verte",
        "versez-le à côté, dans le bol bleuté",
        "à la fin, du sel blanc, ça relève",
    ),
    "emoji": Language("🔪🍅 ❤️‍🔥", "💧🥬 💚", "🥣 💙 👩🏽‍🍳", "🧂 🤍 1️⃣"),
}
